//! What several test suites share. Each suite uses its own part of it.
#![allow(dead_code)]

pub mod checker;
