//! Event-time panes on DataFusion, watermarks, checkpoints.
