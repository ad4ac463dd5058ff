package main

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"castellan.dev/internal/ledger"
)

func keyCommand(f *flags) *cobra.Command {
	var chain bool
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print the ledger's first public key, which auditors pin",
		Long: `Prints the key that began the ledger. Whoever verifies evidence must have got it once, over a
way that they trust: keep the file where castellan cannot write.

With --chain it prints every key that has signed since, and the record that introduced it.
Verification follows the chain from the first key: none but the first has to be pinned.`,
		Example: `  castellan evidence key > ledger.pub
  castellan evidence key --chain`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := f.client(cmd.Context())
			if err != nil {
				return err
			}
			stream, err := client.Evidence(cmd.Context(), url.Values{})
			if err != nil {
				return explained(err)
			}
			defer stream.Close()
			keys, err := ledger.ExportedKeys(stream)
			if err != nil {
				return incomplete(err)
			}
			p := f.printer(cmd)
			switch {
			case p.json:
				return p.value(map[string]any{"key": keys[0].Key, "chain": keys})
			case chain:
				p.keyChain(keys)
			default:
				p.say("%s", keys[0].Key)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&chain, "chain", false, "print also the keys that came after it")
	return cmd
}

func (p *printer) keyChain(keys []ledger.ChainKey) {
	rows := make([][]cell, 0, len(keys))
	for n, key := range keys {
		use := "signed once"
		if n == len(keys)-1 {
			use = "signs now"
		}
		if n == 0 {
			use += "; pin this one"
		}
		rows = append(rows, []cell{text("%d", n+1), text("%d", key.Since), word(use), word(key.Key)})
	}
	p.table([]string{"KEY", "SINCE RECORD", "USE", "PUBLIC KEY"}, rows)
}

func changeKeyCommand(f *flags) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "change-key --reason REASON",
		Short: "Replace the ledger's signing key",
		Long: `Makes a fresh signing key on the machine of castellan serve. The key before signs the change,
which is a record of the ledger, and is then erased. Auditors go on with the key that they
have pinned: verification follows the chain from there.`,
		Example: `  castellan evidence change-key --reason "yearly change"
  castellan evidence key --chain`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if strings.TrimSpace(reason) == "" {
				return usage(errors.New("--reason is missing: it becomes part of the evidence"))
			}
			client, err := f.client(cmd.Context())
			if err != nil {
				return err
			}
			changed, err := client.ChangeKey(cmd.Context(), reason)
			if err != nil {
				return explained(fmt.Errorf("change signing key: %w", err))
			}
			p := f.printer(cmd)
			if p.json {
				return p.value(changed)
			}
			p.say("the ledger is signed by another key from now on: %s", changed.Key)
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it becomes part of the evidence (required)")
	return cmd
}
