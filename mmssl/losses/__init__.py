"""Losses as plain functions of tensors: no modules, no state, no distributed calls."""
