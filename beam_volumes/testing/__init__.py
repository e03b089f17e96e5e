"""Made data and servers for tests, the demonstration, and users who try things out: nothing here is needed by a job."""
