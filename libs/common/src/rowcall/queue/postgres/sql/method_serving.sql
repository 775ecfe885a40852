select name, workers from rowcall.method_serving()
