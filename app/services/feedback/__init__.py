"""What users and operators say of answers: votes, the quorum that corrects an entry, the review, and accuracy."""
