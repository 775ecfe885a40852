select rowcall.book_spend(p_spent => %(spent)s)
