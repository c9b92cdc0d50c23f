//! Webhooks in the ledger.
