//! A process beside the test that keeps something up for as long as the test lives, also when that is
//! killed: it waits for the end of its standard input, and says in lines how far it has come.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::binary;

/// A running one, which ends with this.
#[derive(Debug)]
pub(crate) struct Keeper {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Keeper {
    /// Starts this workload.
    pub(crate) fn start<T: AsRef<OsStr>>(
        workload: impl IntoIterator<Item = T>,
    ) -> Result<Self, String> {
        let child = Command::new(binary::workload())
            .args(workload)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|error| error.to_string())?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        Ok(Self { child, orders, answers })
    }

    /// Gives it an order.
    pub(crate) fn order(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("orders are given until the end");
        writeln!(orders, "{order}").unwrap_or_else(|error| panic!("{order}: {error}"));
    }

    /// The next line that it says; empty: it has ended.
    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        read.unwrap_or_else(|error| panic!("the keeper: {error}"));
        line.trim().to_owned()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ended = self.child.wait();
    }
}
