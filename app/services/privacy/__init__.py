"""What is kept of a device or an account besides its pictures: forgetting it, and telling all of it."""
