//! What is in a history, read as people read it: with a `SQLite` of their own.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::binary;

/// Rows that a query gives, each a list.
#[must_use]
#[track_caller]
pub fn rows(database: &Path, query: &str) -> Value {
    let script = "import json, sqlite3, sys\n\
                  db = sqlite3.connect(sys.argv[1])\n\
                  print(json.dumps(db.execute(sys.argv[2]).fetchall()))";
    let output =
        Command::new(binary::python()).args(["-c", script]).arg(database).arg(query).output();
    let output = output.expect("python");
    assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}
