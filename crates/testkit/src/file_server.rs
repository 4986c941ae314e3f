//! A plain file server.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// Files by their paths, over HTTP, and how often each was asked for. Ends with the process of the test.
#[derive(Clone, Debug)]
pub struct FileServer {
    address: String,
    pages: Arc<Mutex<BTreeMap<String, PathBuf>>>,
    redirects: Arc<Mutex<BTreeMap<String, String>>>,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl FileServer {
    /// Serves nothing yet, on a port of its own.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn serve() -> Self {
        Self::serve_at("127.0.0.1")
    }

    /// The same, at another address of the network namespace that the caller is in.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn serve_at(address: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let files = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            pages: Arc::default(),
            redirects: Arc::default(),
            asked: Arc::default(),
        };
        let served = files.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                // Whoever hangs up early is not our affair.
                std::thread::spawn(move || drop(served.answer(stream)));
            }
        });
        files
    }

    /// Where it is: `http://ADDRESS:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.address
    }

    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        while lines
            .next()
            .transpose()?
            .is_some_and(|line| !line.is_empty())
        {}
        let path = first.split(' ').nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default().to_owned();
        *self.asked.lock().unwrap().entry(path.clone()).or_default() += 1;
        let mut stream = stream;
        if let Some(to) = self.redirects.lock().unwrap().get(&path) {
            return write!(
                stream,
                "HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
        }
        let file = self.pages.lock().unwrap().get(&path).cloned();
        let Some(file) = file else {
            return stream.write_all(
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            );
        };
        let mut file = fs::File::open(file)?;
        let length = file.metadata()?.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        )?;
        std::io::copy(&mut file, &mut stream).map(drop)
    }

    /// Serves a file at a path, which begins with a slash.
    ///
    /// # Panics
    /// Never.
    pub fn put(&self, path: &str, file: &Path) {
        self.pages
            .lock()
            .unwrap()
            .insert(path.to_owned(), file.to_owned());
    }

    /// Sends whoever asks for a path elsewhere.
    ///
    /// # Panics
    /// Never.
    pub fn redirect(&self, path: &str, to: &str) {
        self.redirects
            .lock()
            .unwrap()
            .insert(path.to_owned(), to.to_owned());
    }

    /// How often a path was asked for.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}
