"""Fill stores with completions and scores, from whichever engine makes them."""
