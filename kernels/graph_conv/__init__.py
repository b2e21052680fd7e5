"""Graph convolution over the joints of a body part, on packed frames."""
