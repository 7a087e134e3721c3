"""Methods compared on the same frozen policies: suites, their results and the page that shows them."""
