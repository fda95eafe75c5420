"""How much a few parameters can know by heart: bits a parameter, and the laws of what is learnt over rank and length."""
