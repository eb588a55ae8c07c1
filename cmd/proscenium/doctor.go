package main

import "github.com/spf13/cobra"

func doctorCommand() *cobra.Command { return &cobra.Command{Use: "doctor"} }
func runCommand() *cobra.Command    { return &cobra.Command{Use: "run"} }
