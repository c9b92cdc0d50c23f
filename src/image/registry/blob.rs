//! A blob as a stream: resumes where a connection broke, on another host if needed, and never gives more bytes than promised.

use std::io::{self, Read};

use super::{
    HttpRegistry,
    endpoint::{Body, Endpoint, blob_name},
    error::RegistryError,
    retry,
};
use crate::image::documents::Descriptor;

/// Reads a blob. Its errors wrap a [`RegistryError`].
pub(super) struct BlobReader<'a> {
    registry: &'a HttpRegistry,
    blob: Descriptor,
    at: u64,
    /// The index of the endpoint in use.
    which: usize,
    body: Option<Body>,
    /// Failures since the last sizeable progress.
    failures: u32,
    progress: u64,
}

impl<'a> BlobReader<'a> {
    /// Connects.
    ///
    /// # Errors
    ///
    /// When no host gives the blob.
    pub(super) fn open(registry: &'a HttpRegistry, blob: &Descriptor, from: u64) -> Result<Self, RegistryError> {
        let mut new = Self { registry, blob: blob.clone(), at: from, which: 0, body: None, failures: 0, progress: 0 };
        if from > blob.size {
            return Err(new.wrong_size(from.to_string()));
        }
        if from < blob.size {
            new.connect()?;
        }
        Ok(new)
    }

    fn connect(&mut self) -> Result<(), RegistryError> {
        loop {
            let endpoint = self.endpoint();
            let last = self.which + 1 == self.registry.endpoints.len();
            if !last && !endpoint.serves(true) {
                self.which += 1;
                continue;
            }
            match endpoint.patiently(|| endpoint.blob(&self.blob, self.at)) {
                Ok(body) => {
                    self.body = Some(body);
                    return Ok(());
                }
                Err(error) if !last && self.registry.may_go_on(endpoint, &error) => self.which += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn host(&self) -> String {
        self.endpoint().place.host.clone()
    }

    fn endpoint(&self) -> &'a Endpoint {
        self.registry.endpoints.get(self.which).unwrap_or(self.registry.upstream())
    }

    fn wrong_size(&self, found: String) -> RegistryError {
        RegistryError::Size { host: self.host(), what: blob_name(&self.blob), wanted: self.blob.size, found }
    }

    // The connection is unusable now.
    fn broken(&mut self, source: io::Error) -> Result<(), RegistryError> {
        self.body = None;
        self.failures += 1;
        let error = RegistryError::Broken { host: self.host(), what: blob_name(&self.blob), source };
        let settings = &self.registry.settings;
        if self.failures > settings.patience.retries {
            let endpoint = self.endpoint();
            if self.which + 1 == self.registry.endpoints.len() || !self.registry.may_go_on(endpoint, &error) {
                return Err(error);
            }
            (self.which, self.failures) = (self.which + 1, 0);
        } else {
            retry::pause(settings, &self.host(), retry::delay(settings, self.failures - 1))?;
        }
        self.connect()
    }

    // All bytes are read; check that no more follow.
    fn end(&mut self) -> Result<usize, RegistryError> {
        match self.body.take().map(|mut body| body.read(&mut [0])) {
            Some(Ok(count)) if count > 0 => Err(self.wrong_size("more".into())),
            // Errors do not matter any more.
            _ => Ok(0),
        }
    }

    fn advance(&mut self, count: usize) {
        self.at += count as u64;
        self.progress += count as u64;
        if self.progress >= self.registry.settings.patience.least {
            (self.progress, self.failures) = (0, 0);
        }
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.blob.size - self.at;
        if buffer.is_empty() {
            return Ok(0);
        }
        if most == 0 {
            return self.end().map_err(RegistryError::into_io);
        }
        loop {
            self.registry.settings.check_stop(&self.host()).map_err(RegistryError::into_io)?;
            let read = match &mut self.body {
                Some(body) => body.take(most).read(buffer),
                // Only if the caller reads again after an error.
                None => Err(io::ErrorKind::NotConnected.into()),
            };
            match read {
                Ok(0) => self.broken(io::ErrorKind::UnexpectedEof.into()).map_err(RegistryError::into_io)?,
                Ok(count) => {
                    self.advance(count);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.broken(error).map_err(RegistryError::into_io)?,
            }
        }
    }
}
