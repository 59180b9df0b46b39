//! The statements, written once for every database.

mod entities;
mod feed;
mod instructions;
mod sandbox;
mod tokens;
