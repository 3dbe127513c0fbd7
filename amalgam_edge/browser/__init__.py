"""Students in the browser: a page, the files that it needs, and the libraries that run them there."""
