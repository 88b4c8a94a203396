"""Where tasks live. Each engine keeps the contract of ``thirdshift.core.engine``; they do not know each other."""
