//! The road between agents and server.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A port that leads to the server, or to somebody else.
#[derive(Debug)]
pub struct Road {
    port: u16,
    state: Arc<Mutex<RoadState>>,
}

#[derive(Debug, Default)]
struct RoadState {
    /// 0: nowhere; connections are closed at once.
    leads_to: u16,
    open: Vec<TcpStream>,
    travellers: usize,
}

impl Road {
    /// A road that leads nowhere yet.
    ///
    /// # Panics
    /// When no port can be had.
    #[must_use]
    pub fn open() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(RoadState::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = forward(&shared, stream);
            }
        });
        Self { port, state }
    }

    /// The port agents know.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where it leads.
    ///
    /// # Panics
    /// Never in practice.
    #[must_use]
    pub fn destination(&self) -> u16 {
        self.state.lock().unwrap().leads_to
    }

    /// Leads somewhere else from now on, and cuts every connection there is.
    ///
    /// # Panics
    /// Never in practice.
    pub fn lead_to(&self, port: u16) {
        let mut state = self.state.lock().unwrap();
        state.leads_to = port;
        for stream in state.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Connections that went along it so far.
    ///
    /// # Panics
    /// Never in practice.
    #[must_use]
    pub fn travellers(&self) -> usize {
        self.state.lock().unwrap().travellers
    }

    /// Leads nowhere.
    pub fn cut(&self) {
        self.lead_to(0);
    }
}

fn forward(state: &Arc<Mutex<RoadState>>, near: TcpStream) -> io::Result<()> {
    let mut state = state.lock().unwrap();
    if state.leads_to == 0 {
        return Ok(());
    }
    state.travellers += 1;
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, state.leads_to))?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        state.open.push(stream.try_clone()?);
    }
    for (mut from, mut to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
