"""From a plan to a running payload: namespaces, steps, processes. Knows `overlay` only."""
