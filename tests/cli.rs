//! The `tensorshard` command, run as a program.
