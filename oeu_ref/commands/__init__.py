"""The command line behind `oeu_ref.__main__`: words in, arguments of the lab out."""
