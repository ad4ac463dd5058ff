package installation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"castellan.dev/activities/store"
	"castellan.dev/activities/store/file"
	"castellan.dev/internal/keyring"
)

// CodecKeyring returns where the codec's keyring lies, and what wraps its keys; nil: nothing does.
func (i *Installation) CodecKeyring() (path string, wrapper keyring.Wrapper, err error) {
	path = i.Config.Codec.KeyringFile
	if path == "" {
		path = i.Dir.CodecKeys()
	}
	vault := i.Config.Codec.Vault
	if vault == nil {
		return path, nil, nil
	}
	transit, err := keyring.NewTransit(keyring.TransitConfig{
		Address: vault.Address, Mount: vault.Transit, Key: vault.Key, TokenFile: vault.TokenFile, CAFile: vault.CAFile,
	})
	if err != nil {
		return path, nil, err
	}
	return path, transit, nil
}

// codecKeys opens the codec's keyring, unwrapped once by Vault where that is configured.
func (i *Installation) codecKeys(ctx context.Context) (*keyring.Keyring, error) {
	path, wrapper, err := i.CodecKeyring()
	if err != nil {
		return nil, err
	}
	if wrapper == nil {
		return keyring.Load(path)
	}
	return keyring.LoadWrapped(ctx, path, wrapper)
}

func (i *Installation) storeConfig() (file.Config, error) {
	c := file.Config{Dir: i.Dir.Store(), KeyFile: i.Dir.StoreKeys()}
	if i.Config.Store.IsZero() {
		return c, nil
	}
	err := i.Config.Store.Decode(&c).Err()
	return c, err
}

// StoreKeyring returns where the store's keyring lies.
func (i *Installation) StoreKeyring() (path string, err error) {
	c, err := i.storeConfig()
	return c.KeyFile, err
}

// Store opens the store of candidates, keys and heads.
func (i *Installation) Store() (store.Store, error) {
	c, err := i.storeConfig()
	if err != nil {
		return nil, err
	}
	ring, err := keyring.Load(c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("open store keyring: %w", err)
	}
	return file.Open(c.Dir, ring, i.Now)
}

// OpenKeyring loads a keyring, making it when it does not exist.
func OpenKeyring(path string) (*keyring.Keyring, error) {
	ring, err := keyring.Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return ring, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := keyring.Create(path); err != nil {
		return nil, err
	}
	return keyring.Load(path)
}
