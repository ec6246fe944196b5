package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cleversocks/metrics/admin"
	"cleversocks/supervisor"
	"cleversocks/supervisor/config"
)

// newTestRules is `cleversocks test rules`.
func newTestRules(ctx context.Context, a *app) *cobra.Command {
	var where rulesAt
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "rules FILE",
		Short: "Tries a file of expected decisions, for CI",
		Long: `Tries the decisions that a TOML file expects, by the settings in --config or by
the running daemon, and shows those that are otherwise. A [[case]] has "to" and
"expect" (allow or deny), and may have "user", "from", "listener", "command",
"rule" (what decides, as the access record has it, or its file:line) and
"title". [names] gives names addresses, for machines without DNS.
Exit status: 0 all are as expected, 1 some are not, 2 usage.`,
		Example: "  cleversocks test rules rules-test.toml --config cleversocks.toml",
		Args:    exactly(1, 1, "one file"),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	where.add(flags)
	flags.BoolVar(&asJSON, "json", false, "Prints JSON, for programs.")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		file, err := config.ReadRuleCases(args[0])
		if err != nil {
			return err
		}
		outcomes, err := where.judge(ctx, a, file)
		if err != nil {
			return err
		}
		if asJSON {
			return writeOutcomes(a.stdout, outcomes)
		}
		return showOutcomes(a.stdout, outcomes)
	}
	return cmd
}

// judge asks for all decisions.
func (r *rulesAt) judge(ctx context.Context, a *app, file *config.RuleCases) ([]supervisor.CaseOutcome, error) {
	cfg, err := r.load(ctx, a)
	if err != nil {
		return nil, err
	}
	if r.file != "" {
		return supervisor.JudgeCases(ctx, cfg, file)
	}
	if len(file.Names) > 0 {
		return nil, usageError{"[names] is for settings in --config: a running daemon resolves names itself"}
	}
	var outcomes []supervisor.CaseOutcome
	for _, c := range file.Cases {
		got, err := askDaemon(ctx, cfg.Admin, supervisor.QuestionOf(&c))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Where, err)
		}
		outcomes = append(outcomes, supervisor.CaseOutcome{RuleCase: c, Got: got})
	}
	return outcomes, nil
}

// wrongCases is the error of cases that are not as expected.
func wrongCases(wrong, all int) error {
	if wrong == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d cases are not as expected", wrong, all)
}

// showOutcomes writes what is not as expected, each with its explanation.
func showOutcomes(w io.Writer, outcomes []supervisor.CaseOutcome) error {
	wrong := 0
	for i := range outcomes {
		o := &outcomes[i]
		what := o.Wrong()
		if what == "" {
			continue
		}
		wrong++
		row(w, o.Where+": "+titleOf(o)+": "+what)
		for line := range strings.Lines(o.Got.Text) {
			row(w, "    "+strings.TrimSuffix(line, "\n"))
		}
	}
	if wrong == 0 {
		row(w, fmt.Sprintf("%d cases are as expected", len(outcomes)))
	}
	return wrongCases(wrong, len(outcomes))
}

func titleOf(o *supervisor.CaseOutcome) string {
	if o.Title != "" {
		return o.Title
	}
	who := "anyone"
	if o.User != "" {
		who = o.User
	}
	return who + " to " + o.To
}

// writeOutcomes writes all outcomes for programs.
func writeOutcomes(w io.Writer, outcomes []supervisor.CaseOutcome) error {
	type outcome struct {
		Where string            `json:"where"`
		Title string            `json:"title"`
		OK    bool              `json:"ok"`
		Wrong string            `json:"wrong,omitempty"`
		Got   admin.Explanation `json:"got"`
	}
	list, wrong := make([]outcome, len(outcomes)), 0
	for i := range outcomes {
		o := &outcomes[i]
		list[i] = outcome{Where: o.Where, Title: titleOf(o), Wrong: o.Wrong(), Got: o.Got}
		if list[i].OK = list[i].Wrong == ""; !list[i].OK {
			wrong++
		}
	}
	body, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	if _, err := (jsonLines{w}).Write(append(body, '\n')); err != nil {
		return err
	}
	return wrongCases(wrong, len(outcomes))
}
