"""Where tasks run: taskiq carries their ids and wakes the workers, and the database says what there is to do."""
