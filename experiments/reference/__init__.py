"""The reference, made from the code: keys, parameters, metrics and columns with what they mean."""
