//! What this crate makes of a site's files.

use std::{collections::BTreeMap, fs};

use certificates::{
    Authorities, CertificateDer, Holder, Refusal, Revocation, UnixTime, voms::Servers,
};
use rustls_pki_types::pem::PemObject as _;

use crate::site::Site;

impl Site {
    /// The certificates in some files, one after the other.
    pub fn chain(&self, files: &[&str]) -> Vec<CertificateDer<'static>> {
        let mut chain = Vec::new();
        for file in files {
            let content = fs::read(self.path().join(file)).unwrap();
            chain.extend(CertificateDer::pem_slice_iter(&content).map(Result::unwrap));
        }
        chain
    }

    pub fn authorities(&self, revocation: Revocation) -> Authorities {
        self.authorities_with(revocation, Servers::default())
    }

    pub fn authorities_with(&self, revocation: Revocation, servers: Servers) -> Authorities {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(self.path().join("trusted")).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            files.insert(name, fs::read(entry.path()).unwrap());
        }
        let given = files
            .iter()
            .map(|(name, content)| (name.as_str(), content.as_slice()));
        let (authorities, problems) = Authorities::read(given, revocation, servers);
        assert_eq!(problems, []);
        authorities
    }

    pub fn verify(&self, files: &[&str]) -> Result<Holder, Refusal> {
        let authorities = self.authorities(Revocation::IfPresent);
        authorities.verify(&self.chain(files), UnixTime::now())
    }
}
