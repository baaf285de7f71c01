//! The pack: a model set as Arrow columns, read without copying.
