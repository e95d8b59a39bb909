"""What every run needs: records and their files, chunks of data, isolation of global state, processes."""
