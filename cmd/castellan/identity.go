package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"castellan.dev/activities"
	"castellan.dev/internal/config"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/installation"
)

func identityCommand(f *flags) *cobra.Command {
	parent := &cobra.Command{
		Use:   "identity",
		Short: "Make castellan's own identities",
		Long: `castellan's processes know each other by short-lived certificates under a small authority of
their own, which lives on the machine of castellan serve. Run these commands there, as the
user of castellan serve. Running processes and the command line renew their identities
themselves; these commands begin, and are the way back when one has expired.`,
		Example: `  castellan identity init --config /etc/castellan/castellan.yaml
  castellan identity issue privileged/web-2 --dir /root/to-web-2`,
	}
	parent.AddCommand(identityInitCommand(f), identityIssueCommand(f))
	return group(parent)
}

// issuedIdentity is one line of what these commands tell.
type issuedIdentity struct {
	Name      string    `json:"name"`
	Directory string    `json:"directory"`
	NotAfter  time.Time `json:"not_after"`
	Issued    bool      `json:"issued"` // false: a valid one was there
	Machine   string    `json:"machine"`
}

func identityInitCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Make the authority and the identities of this installation",
		Long: `Makes the authority in api.identityDir, and an identity for castellan serve, for the command
line, for the web page, and for the workers of each zone and of each of the hosts. What is
there and still valid stays, so it may be run again when the configuration has another host.`,
		Example: `  castellan identity init --config /etc/castellan/castellan.yaml --state /var/lib/castellan`,
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := f.production()
			if err != nil {
				return err
			}
			authority, err := i.MakeAuthority()
			if err != nil {
				return err
			}
			var list []issuedIdentity
			for _, name := range identityNames(i.Config) {
				one, err := keepOrIssue(cmd.Context(), i, authority, name)
				if err != nil {
					return err
				}
				list = append(list, one)
			}
			return f.printer(cmd).identities(i.IdentityDir(), list)
		},
	}
}

func identityIssueCommand(f *flags) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "issue NAME",
		Short: "Issue one identity anew",
		Long: `Issues one identity, whatever is there: for another machine, or because it has expired. Put the
directory where the process looks for it; a process that runs takes it over without a restart.

Certificates cannot be called back: one that got into wrong hands is accepted until it
expires, and may be renewed until then by whoever has it. To shut everybody out, stop
castellan serve, remove root.pem from the directory, and begin anew with identity init.`,
		Example: `  castellan identity issue operator
  castellan identity issue privileged/web-2 --dir /root/to-web-2`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := identity.CheckName(args[0]); err != nil {
				return usage(err)
			}
			i, err := f.production()
			if err != nil {
				return err
			}
			authority, err := i.Authority()
			if err != nil {
				return err
			}
			if authority == nil {
				err := activities.Errorf(activities.NotFound, "issue identity %q: no authority is in %s", args[0], i.IdentityDir())
				return withHint(err, "run this on the machine of castellan serve; `castellan identity init` makes an authority")
			}
			if dir == "" {
				dir = i.IdentityDir()
			}
			one, err := issue(cmd.Context(), i, authority, args[0], dir)
			if err != nil {
				return err
			}
			return f.printer(cmd).identities(i.IdentityDir(), []issuedIdentity{one})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "write NAME/identity.pem and NAME/ca.pem here (default: api.identityDir)")
	return cmd
}

// production opens an installation whose identities are made by these commands.
func (f *flags) production() (*installation.Installation, error) {
	i, err := f.open()
	if err != nil {
		return nil, err
	}
	if i.Endpoints != nil {
		err := activities.Errorf(activities.Conflict, "a castellan-dev has run in %s: it makes and renews its identities itself", i.Dir)
		return nil, withHint(err, "name another directory with --state")
	}
	return i, nil
}

// identityNames lists who takes part in the installation.
func identityNames(c *config.Config) []string {
	names := []string{identity.Serve, identity.Operator, identity.UI, string(activities.Control), string(activities.Privileged), string(activities.Observe)}
	for _, host := range slices.Sorted(slices.Values(c.Hosts)) {
		names = append(names, string(activities.Privileged)+"/"+host)
	}
	return names
}

// keepOrIssue leaves an identity that is there and valid as it is.
func keepOrIssue(ctx context.Context, i *installation.Installation, authority *identity.Authority, name string) (issuedIdentity, error) {
	source, err := identity.NewSource(ctx, identity.SourceConfig{Name: name, Files: identity.FilesIn(i.IdentityDir(), name), Now: i.Now})
	switch {
	case err == nil && i.Now().Before(source.NotAfter()) && authority.Signed(source):
		return shownIdentity(i.IdentityDir(), source, false), nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return issuedIdentity{}, withHint(err, fmt.Sprintf("`castellan identity issue %s` replaces it", name))
	}
	return issue(ctx, i, authority, name, i.IdentityDir())
}

func issue(ctx context.Context, i *installation.Installation, authority *identity.Authority, name, dir string) (issuedIdentity, error) {
	source, err := identity.NewSource(ctx, identity.SourceConfig{
		Name: name, Files: identity.FilesIn(dir, name), Renewer: authority.Renewer(name), Now: i.Now,
	})
	if err != nil {
		return issuedIdentity{}, err
	}
	return shownIdentity(dir, source, true), nil
}

func shownIdentity(dir string, source *identity.Source, issued bool) issuedIdentity {
	return issuedIdentity{
		Name: source.Name(), Directory: filepath.Join(dir, filepath.FromSlash(source.Name())), NotAfter: source.NotAfter().UTC(),
		Issued: issued, Machine: machineOf(source.Name()),
	}
}

// machineOf says where an identity belongs.
func machineOf(name string) string {
	switch name {
	case identity.Serve:
		return "here, for castellan serve"
	case identity.Operator:
		return "where people use the command line"
	case identity.UI:
		return "here, for the web page"
	}
	if _, host, ok := strings.Cut(name, "/"); ok {
		return "to " + host
	}
	return "to the workers of zone " + name
}

func (p *printer) identities(authority string, list []issuedIdentity) error {
	if p.json {
		return p.value(map[string]any{"authority": authority, "identities": list})
	}
	rows := make([][]cell, 0, len(list))
	for _, one := range list {
		what := "there already"
		if one.Issued {
			what = "issued"
		}
		rows = append(rows, []cell{{one.Name, bold}, word(what), word(one.NotAfter.Format(time.RFC3339)), word(one.Directory), word(one.Machine)})
	}
	p.table([]string{"IDENTITY", "", "EXPIRES", "DIRECTORY", "BELONGS"}, rows)
	p.say("")
	p.say("The authority is %s: it never leaves this machine.", filepath.Join(authority, "root.pem"))
	p.say("Copy the two files of each directory to the same place below api.identityDir of its machine, for its process's user")
	p.say("alone; then remove them here unless they are used here.")
	return nil
}
