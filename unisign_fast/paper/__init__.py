"""The paper's tables: its ablations at demo size, its parameters counted, its published scores."""
