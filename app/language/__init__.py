"""In which language a caller is spoken to: what a request asks for, and what errors say in it."""
