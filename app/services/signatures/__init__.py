"""Request signatures: RFC 9421 with a shared secret, RFC 9530 for the body, and each nonce once."""
