//! The statements, written once for every database.

mod entities;
mod instructions;
mod tokens;
