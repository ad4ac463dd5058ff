package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"castellan.dev/internal/keyring"
)

// rings are the flags that say which keyring is meant.
type rings struct{ codec, store bool }

func keyringCommand(f *flags) *cobra.Command {
	r := new(rings)
	parent := &cobra.Command{
		Use:   "keyring",
		Short: "Make and change the keyrings of the codec and of the store",
		Long: `A keyring is a file with one current key, which seals, and others, which still open. The codec's
encrypts what Temporal stores; every process has the same. The store's encrypts candidates,
previous keys and heads. With codec.vault configured, Vault wraps the codec's keys.

To change a key: add one, copy the file to every process that has the ring and restart them;
then promote it, copy and restart again. In between everybody opens what anybody seals.

These commands change the file of this machine. They print ids, never keys.`,
		Example: `  castellan keyring create --codec
  castellan keyring add --codec
  castellan keyring promote k-8d969eef6eca --codec
  castellan keyring list --store`,
	}
	parent.PersistentFlags().BoolVar(&r.codec, "codec", false, "the payload codec's keyring")
	parent.PersistentFlags().BoolVar(&r.store, "store", false, "the store's keyring")
	parent.AddCommand(
		r.command(f, &cobra.Command{
			Use: "create", Short: "Make a keyring with one fresh key; an existing one is refused",
			Example: "  castellan keyring create --codec\n  castellan keyring create --store", Args: args(),
		}, createKeyring),
		r.command(f, &cobra.Command{
			Use: "add", Short: "Add a fresh key that does not seal yet",
			Example: "  castellan keyring add --codec", Args: args(),
		}, func(cmd *cobra.Command, ring ring, _ []string) error {
			_, err := keyring.Add(cmd.Context(), ring.path, ring.wrapper)
			return err
		}),
		r.command(f, &cobra.Command{
			Use: "promote ID", Short: "Make a key the one that seals, when every process has it",
			Example: "  castellan keyring promote k-8d969eef6eca --codec", Args: args("ID"),
		}, func(_ *cobra.Command, ring ring, args []string) error { return keyring.Promote(ring.path, args[0]) }),
		r.command(f, &cobra.Command{
			Use: "list", Short: "Show a keyring's keys by id",
			Example: "  castellan keyring list --codec\n  castellan keyring list --store -o json", Args: args(),
		}, func(*cobra.Command, ring, []string) error { return nil }),
	)
	return group(parent)
}

// ring is the keyring that is meant.
type ring struct {
	path    string
	wrapper keyring.Wrapper // nil: nothing wraps its keys
}

func (r *rings) find(f *flags) (ring, error) {
	if r.codec == r.store {
		return ring{}, usage(errors.New("want either --codec or --store"))
	}
	i, err := f.open()
	if err != nil {
		return ring{}, err
	}
	var found ring
	if r.codec {
		found.path, found.wrapper, err = i.CodecKeyring()
	} else {
		found.path, err = i.StoreKeyring()
	}
	return found, err
}

// command completes a command that does something to a ring, and then shows its keys.
func (r *rings) command(f *flags, cmd *cobra.Command, do func(*cobra.Command, ring, []string) error) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		found, err := r.find(f)
		if err != nil {
			return err
		}
		if err := do(cmd, found, args); err != nil {
			return ringHint(err)
		}
		keys, err := keyring.List(found.path)
		if err != nil {
			return ringHint(err)
		}
		return f.printer(cmd).ring(found.path, keys)
	}
	return cmd
}

func createKeyring(cmd *cobra.Command, ring ring, _ []string) error {
	if err := os.MkdirAll(filepath.Dir(ring.path), 0o700); err != nil {
		return fmt.Errorf("create keyring: %w", err)
	}
	if ring.wrapper != nil {
		return keyring.CreateWrapped(cmd.Context(), ring.path, ring.wrapper)
	}
	return keyring.Create(ring.path)
}

func ringHint(err error) error {
	switch {
	case errors.Is(err, fs.ErrExist):
		return withHint(err, "to change its key, use `castellan keyring add`, then `castellan keyring promote`")
	case errors.Is(err, fs.ErrNotExist):
		return withHint(err, "make it with `castellan keyring create`, or copy it from the machine that has it")
	case errors.Is(err, keyring.ErrUnknownKey):
		return withHint(err, "see `castellan keyring list`")
	}
	return err
}

func (p *printer) ring(path string, keys []keyring.Info) error {
	if p.json {
		return p.value(map[string]any{"file": path, "keys": keys})
	}
	p.say("%s", path)
	rows := make([][]cell, 0, len(keys))
	for _, key := range keys {
		use, kept := "opens", "the key itself"
		if key.Current {
			use = "seals and opens"
		}
		if key.Wrapped {
			kept = "wrapped by Vault"
		}
		rows = append(rows, []cell{word(key.ID), word(use), word(kept)})
	}
	p.table([]string{"KEY", "USE", "HELD AS"}, rows)
	return nil
}
