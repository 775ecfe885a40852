select method, queue from rowcall.published_methods()
