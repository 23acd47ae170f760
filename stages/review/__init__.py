"""People in the loop: campaigns, the review page and the gates."""
