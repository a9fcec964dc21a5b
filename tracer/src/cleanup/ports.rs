//! Whether anybody listens at an address still.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Seek as _},
    ops::ControlFlow,
};

use crate::procfs::{InetTable, TaskDir, parse_inet_line};

/// Addresses that a process listened at, and the tables of its network namespace: open, because they
/// are of that namespace also when the process is gone.
#[derive(Debug)]
pub(super) struct Ports {
    tables: Vec<(InetTable, File)>,
    waiting: Vec<Vec<u8>>,
}

impl Ports {
    /// Opens the tables. Unix sockets are left out: their names stay behind whatever becomes of who
    /// bound them.
    pub(super) fn hold(task: &TaskDir, addresses: Vec<Vec<u8>>) -> io::Result<Self> {
        let mut tables = Vec::new();
        for table in InetTable::ALL {
            match File::open(task.path().join(table.file())) {
                Ok(file) => tables.push((table, file)),
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { tables, waiting: addresses })
    }

    /// Those that nobody listens at any more. Each is told once.
    pub(super) fn freed(&mut self) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        for (table, file) in &mut self.tables {
            if let Err(error) = listening(*table, file, &mut taken) {
                log::debug!("failed to read {}: {error}", table.file());
                return Vec::new();
            }
        }
        let (waiting, freed) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|address| taken.contains(address));
        self.waiting = waiting;
        freed
    }
}

/// Adds where sockets of a table wait for anybody.
fn listening(table: InetTable, file: &mut File, found: &mut Vec<Vec<u8>>) -> io::Result<()> {
    file.rewind()?;
    for (number, line) in (1..).zip(BufReader::new(file).split(b'\n')) {
        let line = line?;
        // The first line names the columns.
        let Some(socket) = (number > 1).then(|| parse_inet_line(number, &line)) else { continue };
        let socket = socket.map_err(|error| io::Error::other(error.to_string()))?;
        match table.awaits_anybody(socket.state) {
            ControlFlow::Continue(true) => {
                let kind = if table.is_tcp() { "" } else { "udp " };
                found.push(format!("{kind}{}", socket.local).into_bytes());
            }
            ControlFlow::Continue(false) => {}
            ControlFlow::Break(()) => return Ok(()),
        }
    }
    Ok(())
}
