"""The paper's tables: its ablations at demo size, its sizes counted, its scores."""
