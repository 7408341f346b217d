"""What the proofs share: the run that they drive, its ledger, the faults, the workers, and the checks."""
