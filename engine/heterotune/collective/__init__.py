"""How ranks exchange numbers: channels, the wire format of updates, and the ledger of bytes."""
