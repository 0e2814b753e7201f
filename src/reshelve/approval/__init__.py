"""Approvals: a person agrees to a plan, or to the swap of what was validated.

`payload` is what is signed, `decision` judges what was signed against what is about to be done (pure), `circumstances`
gathers what that takes, `ledger` keeps approvals in the journal, `standing` looks for the one that a run needs."""
