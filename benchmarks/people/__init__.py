"""How good generated people are, on rendered ones that no training has seen; speed and memory are measured outside."""
