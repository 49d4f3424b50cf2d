"""One module per workload, each naming its contestants and the claims made about them as `WORKLOAD`."""
