"""Cache, SFT, merge, preferences and DPO as stages."""
