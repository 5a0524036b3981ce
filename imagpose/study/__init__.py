"""The user study of the paper's Fig. 6: a page that people answer, and the figures from their answers. No torch."""
