"""Tests in real browsers and notebooks."""
