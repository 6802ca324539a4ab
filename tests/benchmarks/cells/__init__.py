"""What a person would have typed into a notebook: each module here is run in the ``__main__`` of a measurement.

So the functions in it belong to ``__main__``, as those of a notebook do, and have to travel as such.
"""
