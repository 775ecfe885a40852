select rowcall.analyze_history()
