"""A web page that runs a bundle in the browser.

In: a bundle. Out: the page as files for any web host, with the bundle's model and the JavaScript libraries that run it.
The server in ``amalgam_edge.serving`` hands out the same page.
"""
