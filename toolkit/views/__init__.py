"""What front ends draw, as values, sentences and pictures: rows, lanes, lines, SVG and HTML. Pure; knows core alone."""
