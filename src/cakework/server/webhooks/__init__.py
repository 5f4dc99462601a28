"""Webhooks (Standard Webhooks 1.0): what happened is told to the accounts' own endpoints."""
